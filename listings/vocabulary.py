"""Closed vocabularies of the catalog, with their English and Chinese labels. Pure."""

from enum import StrEnum


class Category(StrEnum):
    """Fields of data (GB/T 43697-2024 5.1 grades by industry field first)."""

    AGRICULTURE = "agriculture"
    COMMERCE = "commerce"
    CULTURE_TOURISM = "culture_tourism"
    EDUCATION = "education"
    ENERGY = "energy"
    ENVIRONMENT = "environment"
    FINANCE = "finance"
    GEOGRAPHY = "geography"
    HEALTH = "health"
    INDUSTRY = "industry"
    LABOR = "labor"
    PUBLIC_SERVICES = "public_services"
    SCIENCE = "science"
    TELECOM = "telecom"
    TRANSPORT = "transport"
    WEATHER = "weather"
    OTHER = "other"


CATEGORY_LABELS: dict[Category, tuple[str, str]] = {
    Category.AGRICULTURE: ("Agriculture", "农业农村"),
    Category.COMMERCE: ("Commerce", "商贸流通"),
    Category.CULTURE_TOURISM: ("Culture and tourism", "文化旅游"),
    Category.EDUCATION: ("Education", "教育"),
    Category.ENERGY: ("Energy", "能源"),
    Category.ENVIRONMENT: ("Environment", "生态环境"),
    Category.FINANCE: ("Finance", "金融服务"),
    Category.GEOGRAPHY: ("Geography", "地理空间"),
    Category.HEALTH: ("Health", "医疗健康"),
    Category.INDUSTRY: ("Industry", "工业制造"),
    Category.LABOR: ("Labor", "劳动就业"),
    Category.PUBLIC_SERVICES: ("Public services", "公共服务"),
    Category.SCIENCE: ("Science", "科技创新"),
    Category.TELECOM: ("Telecommunications", "通信"),
    Category.TRANSPORT: ("Transport", "交通运输"),
    Category.WEATHER: ("Weather", "气象服务"),
    Category.OTHER: ("Other", "其他"),
}


class UpdateCycle(StrEnum):
    """How often the seller promises new data."""

    HOURLY = "hourly"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    QUARTERLY = "quarterly"
    YEARLY = "yearly"
    IRREGULAR = "irregular"
    STATIC = "static"


class Purpose(StrEnum):
    """What a buyer may use data for; anything not named in a policy is not allowed."""

    ACADEMIC_RESEARCH = "academic_research"
    INTERNAL_ANALYTICS = "internal_analytics"
    MODEL_TRAINING = "model_training"
    PRODUCT_DEVELOPMENT = "product_development"
    PUBLIC_SERVICE = "public_service"
    RISK_MANAGEMENT = "risk_management"


class DeidentificationMethod(StrEnum):
    """Families of technique in GB/T 37964-2019 annex A, and synthetic data."""

    AGGREGATION = "aggregation"
    ENCRYPTION = "encryption"
    GENERALIZATION = "generalization"
    PSEUDONYMIZATION = "pseudonymization"
    RANDOMIZATION = "randomization"
    SUPPRESSION = "suppression"
    SYNTHETIC = "synthetic"
